"""`trustee report`: runs as one HTML file, to show to somebody else."""
