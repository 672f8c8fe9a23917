"""`wander bench`: how fast a target answers, how sure that is, and whether two measurements differ.

A target is a bundle, run in process by an engine, or a server at a URL. What sends requests runs in a process of its
own and only keeps times; everything else is computed from them afterwards.
"""
