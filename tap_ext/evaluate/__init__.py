"""Models by methods by budgets by prompts by seeds: stored results, a table, plots.

``tap_ext.evaluate.run.evaluate`` is the entry; the command ``tap_ext evaluate`` calls it.
"""
