"""This host: threads, memory, versions, and what a process costs."""
