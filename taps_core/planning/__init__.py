"""Pure decisions: composing Protocol Stacks, ranking them, racing them."""
