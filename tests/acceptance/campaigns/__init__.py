"""Campaigns against real processes: what is killed, cut off or broken, and what became of each response.

`benchmarks/survive.py` runs them at any size, `test_survive.py` in a short form. `stage` has the servers and
workers, `ledgerbook` what was sent and how it ended, `app` the Celery app of the workers; every other module
is one campaign.
"""
