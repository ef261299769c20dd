"""The whole system in one thread: real domain and service code, virtual time, and faults that a seed decides."""
