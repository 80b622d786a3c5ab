"""Voice agent over MoQ: an agent and a caller publish audio tracks to each other through qlb."""
