"""What every experiment shares: settings, training loop, checkpoints, metrics, plots and command line."""
