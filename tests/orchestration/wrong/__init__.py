"""Everything a person can get wrong, as tables: what is written, and the words that the one line must hold."""
