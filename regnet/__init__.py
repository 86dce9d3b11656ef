"""Does RegNet's first GraphSAGE layer shrink gene expression the way Bayes' rule would?"""
