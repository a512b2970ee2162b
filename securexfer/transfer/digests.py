class DigestCache:
    def find(self, s):
        return None

    def add(self, s, d, b):
        pass

    def close(self):
        pass
