"""Celery settings of `freddy_tasks.app`; addresses come from CELERY_BROKER_URL and CELERY_RESULT_BACKEND.

An app of your own needs none of this file: only `include = ["freddy_tasks.tasks"]`.
"""

include = ["freddy_tasks.tasks"]
worker_consumer = "freddy_tasks.consumer:SurvivingConsumer"  # celery 5.7.0 dies with its Redis otherwise

# JSON only: a message must not be able to run code.
task_serializer = "json"
result_serializer = "json"
event_serializer = "json"
accept_content = ["json"]
result_accept_content = ["json"]

# Past the API's retention of 24 hours, so that no answer and no half-counted chord expires before it.
result_expires = 3 * 86_400
result_chord_expires = 3 * 86_400

task_default_queue = "freddy_tasks"
task_send_sent_event = True
worker_send_task_events = True
worker_prefetch_multiplier = 4
broker_connection_retry_on_startup = True

_redis = {
    "socket_timeout": 30.0,  # a dead connection must not hang a publish for ever
    "socket_connect_timeout": 5.0,
    "socket_keepalive": True,
    "health_check_interval": 25,
    "retry_on_timeout": True,
}
broker_transport_options = {
    **_redis,
    # No message of ours is held for long: a killed worker's come back after five minutes, not an hour.
    "visibility_timeout": 300,
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
}
# One backend for all greenlets and threads: each would open connections of its own otherwise, hop by hop.
result_backend_thread_safe = True
result_backend_transport_options = {"retry_policy": {"timeout": 5.0}}
redis_socket_timeout = 30.0
redis_socket_connect_timeout = 5.0
redis_backend_health_check_interval = 25
