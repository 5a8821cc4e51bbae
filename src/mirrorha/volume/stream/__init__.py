"""The ordered stream of one volume: who serves it, who follows, and how the two become a mirror."""
