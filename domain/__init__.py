"""What things are: pure values and step functions, without I/O, clock, randomness or logging."""
