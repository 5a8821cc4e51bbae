"""For test suites, ours and yours: the simulator, fakes, conformance suites, a pytest plugin."""
