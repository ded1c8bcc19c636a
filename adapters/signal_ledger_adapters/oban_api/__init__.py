"""Everything of Oban that this library touches beyond its public names, in one place (oban 0.7.0).

`tests/test_oban_api.py` fails, and names what moved, when a new Oban breaks one of the assumptions made here.
"""

from oban._executor import AckAction as AckAction
from oban._executor import Executor as Executor
from oban._producer import Producer as Producer
from oban._query import Query as Query

from signal_ledger_adapters.oban_api.hooks import EngineHooks as EngineHooks
from signal_ledger_adapters.oban_api.hooks import Fetch as Fetch
from signal_ledger_adapters.oban_api.hooks import OfQuery as OfQuery
from signal_ledger_adapters.oban_api.hooks import hook_engines as hook_engines
from signal_ledger_adapters.oban_api.instances import NotifiedCallback as NotifiedCallback
from signal_ledger_adapters.oban_api.instances import conninfo_of as conninfo_of
from signal_ledger_adapters.oban_api.instances import cron_workers as cron_workers
from signal_ledger_adapters.oban_api.instances import instances as instances
from signal_ledger_adapters.oban_api.instances import is_behind_pooler as is_behind_pooler
from signal_ledger_adapters.oban_api.instances import is_started as is_started
from signal_ledger_adapters.oban_api.instances import listen as listen
from signal_ledger_adapters.oban_api.instances import name_of as name_of
from signal_ledger_adapters.oban_api.instances import notify as notify
from signal_ledger_adapters.oban_api.instances import prefix_of as prefix_of
from signal_ledger_adapters.oban_api.instances import query_of as query_of
from signal_ledger_adapters.oban_api.instances import rescue_after as rescue_after
from signal_ledger_adapters.oban_api.instances import rescue_after_of as rescue_after_of
from signal_ledger_adapters.oban_api.instances import retry_acknowledgements as retry_acknowledgements
from signal_ledger_adapters.oban_api.instances import start as start
from signal_ledger_adapters.oban_api.instances import stop as stop
from signal_ledger_adapters.oban_api.instances import unlisten as unlisten
from signal_ledger_adapters.oban_api.instances import was_started_before_fork as was_started_before_fork
from signal_ledger_adapters.oban_api.instances import was_stopped as was_stopped
from signal_ledger_adapters.oban_api.offline import hook_offline as hook_offline
from signal_ledger_adapters.oban_api.offline import take_down as take_down
from signal_ledger_adapters.oban_api.producers import limit_of as limit_of
from signal_ledger_adapters.oban_api.producers import query_of_producer as query_of_producer
from signal_ledger_adapters.oban_api.queries import Acknowledge as Acknowledge
from signal_ledger_adapters.oban_api.queries import acknowledge_on as acknowledge_on
from signal_ledger_adapters.oban_api.queries import on_connection as on_connection
from signal_ledger_adapters.oban_api.queries import pipelined_transaction as pipelined_transaction
from signal_ledger_adapters.oban_api.queries import transaction as transaction
from signal_ledger_adapters.oban_api.schedules import schedule_by as schedule_by
from signal_ledger_adapters.oban_api.schedules import schedule_no_more_by as schedule_no_more_by
from signal_ledger_adapters.oban_api.workers import acknowledgement_of as acknowledgement_of
from signal_ledger_adapters.oban_api.workers import attach_execution as attach_execution
from signal_ledger_adapters.oban_api.workers import cancellation_of as cancellation_of
from signal_ledger_adapters.oban_api.workers import execution_of as execution_of
from signal_ledger_adapters.oban_api.workers import failure_of as failure_of
from signal_ledger_adapters.oban_api.workers import hook_workers as hook_workers
from signal_ledger_adapters.oban_api.workers import make_cancellable as make_cancellable
from signal_ledger_adapters.oban_api.workers import oban_name_of as oban_name_of
from signal_ledger_adapters.oban_api.workers import path_of as path_of
from signal_ledger_adapters.oban_api.workers import put_off_early_job as put_off_early_job
from signal_ledger_adapters.oban_api.workers import request_cancel as request_cancel
from signal_ledger_adapters.oban_api.workers import run_process as run_process
from signal_ledger_adapters.oban_api.workers import token_of as token_of
