"""The mathematics verifier: find the answer in a response, normalize it, and decide whether it equals the gold."""
