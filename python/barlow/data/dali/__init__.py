"""The device stage by NVIDIA DALI (docs/dali.md): Rust draws, DALI applies, with the same parameters.

`barlow.data.staged` is the way in. `installed` says whether DALI can be used, `graph` and `colour` describe
to DALI what a view is, `stage` drives it. Only these last three import `nvidia.dali`, when they are needed.
"""
