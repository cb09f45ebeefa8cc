"""Loading base models and students, and the pair they form."""
