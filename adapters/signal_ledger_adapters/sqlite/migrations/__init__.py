"""The schema, step by step: files named ``<version>_<name>.sql``, never changed once released."""
