"""Health of a worker: what a process reports, the watchdog, and the probes /live and /ready."""
