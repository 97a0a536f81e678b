"""Many runs: a table of them, processes side by side, what each has reached."""
