"""Job files: a run's command lines, as GKE, Slurm and SkyPilot start them."""
