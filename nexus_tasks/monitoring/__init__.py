"""What operators look at: the state of sessions and their deliveries (`status`), and the log files (`logs`)."""
