"""How far a computed result can be trusted: the error of a solve, of a gradient, of chains, point by point."""
