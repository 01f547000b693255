"""Episodes of tasksets for `verifiers`, which run in an interpreter of their own."""
