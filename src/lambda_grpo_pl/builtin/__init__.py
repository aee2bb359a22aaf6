"""The built-in tasks, their tokenizer, and the base models that a short warm-up makes for them."""
