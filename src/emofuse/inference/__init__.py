"""The trained models, used: on one's own clips (`answers`), as a folder that stands alone (`export`), and served (`served`).

`bundle` says which models and how a clip is made into what they eat, `windows` cuts a video into what is like a clip of
the corpus, `answers` asks the models, `page` shows what they say, `card` what they are good for.
"""
