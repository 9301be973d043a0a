"""Which questions stand on their own: phrases that point to a text, and names that only look like them."""

import pytest

from radit_job.rag.standing_alone import is_question, points_outside

ALONE = """
What is the context window of GPT-3?
Which document format does the European Patent Office use?
How does the text encoder of CLIP work?
What is the document-term matrix used for?
How is the document index of RAG updated?
In the context of reading comprehension, how does Falcon-7B compare to GPT-3?
Who is the author of Faust?
Who are the authors of the Falcon paper?
What does Section 230 of the Communications Decency Act protect?
What does the Falcon paper report about its carbon footprint?
How many people above the age of 65 live in Japan?
What is the table of contents of a book for?
How does the figure skater keep her balance?
Why is it important to normalize the input of each sub-layer?
How long does it take to train Falcon-40B?
What did the report by the IPCC say about sea levels?
What is the paper size A4?
What is the role of context in retrieval-augmented generation?
Which text classification datasets does BERT use?
What information must a passport contain?
How large is the study population needed for a clinical trial?
What does the passage of the Civil Rights Act of 1964 forbid?
Which section of the Amazon river is the widest?
What was the abstract expressionist movement?
Why is the article "the" used before nouns?
What is the source code of Linux written in?
How are the results of the Bundestag election counted?
Which awards are given by the Academy?
What is shown by the Michelson-Morley experiment?
How does text-to-image generation work?
What does a table saw cut?
What are the figures of speech in rhetoric?
Which data does the GDPR protect?
What are the following distances recommended on motorways?
What follows the introduction of a sonata?
Welche Rolle spielt der Kontext in der Übersetzung?
Was bedeutet der Text der Nationalhymne?
Wie heißt die Autorin des Artikels 5 des Grundgesetzes?
Falcon-40B的上下文窗口有多大？
Falcon 模型使用了哪些训练数据？
RMSNormとは何ですか。
ما هو نموذج اللغة؟
Quel est le contexte historique de la Révolution française ?
¿Cuál es el texto más antiguo?
What year was the Treaty of Versailles signed in?
How do bees tell each other where flowers are?
Does this-worldly asceticism play a role for Weber?
How many parameters does the largest Falcon model have?
What is the paragraph sign used for?
What is the meaning of "context" in pragmatics?
""".strip().splitlines()

POINTING = """
What is this text about?
What does the passage say about training?
According to the document, who built the tower?
According to the text, what is RMSNorm?
What does the author say about bees?
What do the authors propose?
What is the author's opinion?
What is described in this section?
What is shown in Figure 3?
What does Table 2 list?
What does the table show?
What are the values in the table?
As mentioned above, which model is best?
Which of the following is correct?
Based on the provided context, what is Falcon?
Based on the table provided, which model has the largest size?
How does Falcon compare, as mentioned in the text?
What are the models mentioned in the context information?
What datasets are used in the context of this document?
What is the main idea of the passage?
What is the purpose of the study?
How does the paper evaluate toxicity?
What did the study find?
What sets the 65B model in this work apart?
What is our model trained on?
How do we train the model?
How does this model compare to GPT-3?
Why did they choose RMSNorm?
What is equation (4) used for?
What does Appendix B contain?
What is stated on page 7?
What does the above code print?
What does the given excerpt describe?
Which datasets are mentioned?
How was the data in Section 3.1 collected?
In the conclusion, what is announced?
What does the code snippet above do?
How does the proposed method differ from BERT?
What do these results suggest?
What is the topic of the article?
Who wrote the text?
What is discussed in the previous section?
WHAT DOES THE PASSAGE DESCRIBE?
What is the main contribution of the work?
""".strip().splitlines()

NO_QUESTIONS = ["Describe the tower.", "The tower is high.", "", "?!", "塔很高。", "Frage", "Why? Because."]


@pytest.mark.parametrize("question", ALONE)
def test_a_question_that_names_what_it_asks_for_stands_alone(question):
    assert not points_outside(question)
    assert is_question(question)


@pytest.mark.parametrize("question", POINTING)
def test_a_question_that_speaks_of_its_text_points_outside(question):
    assert points_outside(question)


@pytest.mark.parametrize("text", NO_QUESTIONS)
def test_what_does_not_end_as_a_question_is_none(text):
    assert not is_question(text)


def test_a_question_may_end_in_quotes_and_brackets():
    assert is_question('What did she mean by "why?"')
    assert is_question("What is it called (in Latin)?**")
    assert is_question("Τι είναι αυτό;")
