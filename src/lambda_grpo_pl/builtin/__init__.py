"""The built-in task: its problems, its tokenizer, and the warm-up that trains its base model."""
