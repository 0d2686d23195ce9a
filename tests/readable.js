// Texts with too little contrast (WCAG 2.2, AA), and controls without a name or out of Tab's reach.
() => {
    const numbers = (colour) => (colour.match(/[\d.]+/g) || []).map(Number);
    const light = (colour) => numbers(colour).slice(0, 3).map((n) => n / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const opaque = (colour) => numbers(colour).length === 3 || numbers(colour)[3] === 1;
    const behind = (node) => {
        for (let at = node; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (opaque(colour)) return colour;
        }
        return "rgb(255, 255, 255)";
    };
    const seen = (node) => node.getClientRects().length && getComputedStyle(node).visibility !== "hidden";
    const wrong = [];
    for (const node of document.querySelectorAll(".ml4ad-page *")) {
        const own = [...node.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
        if (!own || !seen(node) || node.closest("script, style")) continue;
        const style = getComputedStyle(node);
        const [a, b] = [light(node.closest("svg") ? style.fill : style.color), light(behind(node))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        const large = parseFloat(style.fontSize) >= 24;
        if (ratio < (large ? 3 : 4.5)) wrong.push(`contrast ${ratio.toFixed(2)}: ${node.textContent.trim().slice(0, 60)}`);
    }
    for (const node of document.querySelectorAll(".ml4ad-page :is(button, select, input, textarea, a[href])")) {
        if (!seen(node)) continue;
        const name = node.getAttribute("aria-label") || node.title || node.placeholder || node.textContent.trim()
            || [...(node.labels || [])].map((one) => one.textContent.trim()).join("");
        if (!name) wrong.push(`no name: ${node.outerHTML.slice(0, 160)}`);
        if (node.tabIndex < 0) wrong.push(`out of reach: ${node.outerHTML.slice(0, 160)}`);
    }
    return wrong;
}
