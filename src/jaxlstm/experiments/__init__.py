"""`python -m jaxlstm.experiments`: what the papers claim, each run again by one command."""
