"""Gates: may this rollout go on?"""
