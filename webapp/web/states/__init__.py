"""The page of states: what new answers can begin with.

routes        addresses; GET reads, POST does and answers with the page that shows it
desk          what the pages work with, one a request
page_view     the list; details_view one state; chart its norms as columns
contexts      what the templates are given
"""
