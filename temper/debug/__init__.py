"""Finding out what is wrong: how far results may be apart, shrinking a failing model, and naming the pass, rule, region
or tactic that changes an output."""
