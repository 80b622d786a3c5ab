"""Floor 3: whether the backends answer. Probes ask, judgements decide, the monitor tells the supervisor."""
