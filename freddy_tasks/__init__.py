"""Freddy's background mode as first-class Celery tasks."""
