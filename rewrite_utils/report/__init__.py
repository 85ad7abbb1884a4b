"""What the notebooks show: tables, figures, windows of latents, the paper's claims.

In: tables, arrays and plain settings, never a site or a run: what a figure shows is visible in the
notebook's cell. Out: data frames, drawn axes, and HTML that renders the same in JupyterLab, on the
repository's page and in an export. Computes no new results beyond statistics of what it is given.
"""
