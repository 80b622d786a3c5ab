"""Floor 3: backend health. Probes ask the backends, judgements decide, and the monitor reports to the supervisor."""
