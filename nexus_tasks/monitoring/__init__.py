"""What operators look at.

The state of sessions and their deliveries (`status`), how the destinations are (`wellbeing`), what needs somebody's
attention (`attention`), what each worker says of itself (`presence`) and of its folders (`shared_folder`), and the log
files (`logs`).
"""
