"""What connects nexus-tasks with programs that do the same work, or part of it."""
