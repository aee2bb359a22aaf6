"""From prompts to scored responses: sampling with the current weights, text, and scores."""
