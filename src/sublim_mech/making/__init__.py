"""How students are made: rows, teachers and their labels, what to expect of them, and training."""
