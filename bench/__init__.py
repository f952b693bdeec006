"""What this product costs, beside what one would write instead and beside older versions of itself.

`make bench` runs `python -m bench`. The other measurements have subjects of their own and are run by name:
`python -m bench.pacing`, `adapting`, `overtaking`, `limiters`, `onboarding`.
"""
