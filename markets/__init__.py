"""Things outside: exchanges, recorded files and the simulated market, as one kind of source."""
