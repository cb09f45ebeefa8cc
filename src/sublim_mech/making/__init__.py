"""Making students: numbers, teachers, their labels, whether there is anything to learn, training."""
