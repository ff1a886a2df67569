"""What a network does, node by node, as torch.fx sees it: what follows a change, and which channels move together."""
