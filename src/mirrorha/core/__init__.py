"""The pure core: decides, and touches nothing."""
