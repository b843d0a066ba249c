"""From traces to training data: `cord export`, its formats, its filters, and the card that says what is in it."""
