"""The voice agent over MoQ: tracks of audio that an agent and a caller publish to each other, through qlb."""
