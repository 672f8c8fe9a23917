"""The same service on a Ray cluster: a Ray Serve deployment for every bundle, and one for the application before them.

A deployment of a bundle holds what a model needs alone: its engine and a batcher. All else, from HTTP to the queue, is
the application as it always is, whose graphs are run by those deployments.
"""
