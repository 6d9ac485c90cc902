import setuptools; setuptools.setup(name='triggered', packages=['app'])
