"""The executor on a cluster: a Job per stage."""
