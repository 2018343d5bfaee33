"""The numerical error of a result: of an ODE solve, of a gradient, of chains."""
