"""Supervised fine-tuning on episodes that a teacher played and rejection sampling kept."""
